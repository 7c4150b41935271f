// RUN: heterarch opt %s --no-locations | filecheck %s
// Round trip of every op that holds regions, and of memory, constants and sub-agents.
agent.graph @sub(%q: !agent.text) -> !agent.text {
  agent.yield %q : !agent.text
}
agent.graph @main(%q: !agent.text) -> !agent.text {
  %k = agent.const "k"() {value = "\"more\""} : () -> !agent.text
  %items = agent.compute "split"(%q, %k) {callee = "split", seconds = #agent.dist<0.0001>} : (!agent.text, !agent.text) -> !agent.list<!agent.text>
  %f = agent.call "spawned"(%q) {callee = "sub", mode = "async"} : (!agent.text) -> !agent.future<!agent.text>
  %m = agent.map "each"(%items) {width = #agent.dist<p0 = 1.0, p100 = 4.0>} : (!agent.list<!agent.text>) -> !agent.list<!agent.text> {
  ^bb0(%item: !agent.text):
    %r = agent.call "called"(%item) {callee = "sub", mode = "sync"} : (!agent.text) -> !agent.text
    agent.yield %r : !agent.text
  }
  %w = agent.await "wait"(%f) : (!agent.future<!agent.text>) -> !agent.text
  %old = agent.memory_load "load"(%w) {key = "last"} : (!agent.text) -> !agent.text
  %b = agent.branch "which"(%old, %m) {cases = ["a", "b"], probabilities = [2.500000e-01 : f64, 7.500000e-01 : f64]} : (!agent.text, !agent.list<!agent.text>) -> !agent.text {
  ^bb0(%x: !agent.list<!agent.text>):
    %y = agent.compute "join"(%x) {callee = "join"} : (!agent.list<!agent.text>) -> !agent.text
    agent.yield %y : !agent.text
  } {
  ^bb0(%x: !agent.list<!agent.text>):
    agent.yield %old : !agent.text
  }
  agent.memory_store "store"(%b) {key = "last"} : (!agent.text) -> ()
  agent.yield %b : !agent.text
}
// CHECK: agent.graph @sub(%q: !agent.text) -> !agent.text {
// CHECK: %k = agent.const "k"() {value = "\22more\22"} : () -> !agent.text
// CHECK: %f = agent.call "spawned"(%q) {callee = "sub", mode = "async"} : (!agent.text) -> !agent.future<!agent.text>
// CHECK: %m = agent.map "each"(%items) {width = #agent.dist<p0 = 1.0, p100 = 4.0>}
// CHECK-NEXT: ^bb0(%item: !agent.text):
// CHECK: %w = agent.await "wait"(%f)
// CHECK: agent.branch "which"(%old, %m) {cases = ["a", "b"], probabilities = [2.500000e-01 : f64, 7.500000e-01 : f64]}
// CHECK: agent.memory_store "store"(%b) {key = "last"} : (!agent.text) -> ()
