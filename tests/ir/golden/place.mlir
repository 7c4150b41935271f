// RUN: heterarch opt %s --passes 'decompose,place{assign="m.prefill=fast","*=slow"}' --no-locations | filecheck %s
// RUN: heterarch opt %s --passes 'decompose,place{assign="m.prefill=fast","*=slow"}' --generic | filecheck %s --check-prefix GENERIC
agent.graph @main(%q: !agent.text) -> !agent.text {
  %c, %t = agent.model "m"(%q) {model = "M"} : (!agent.text) -> (!agent.chat, !agent.text)
  agent.yield %t : !agent.text
}
// CHECK: serve.kv_lookup "m.kv_lookup"(%q) {call = "m", model = "M", pool = "slow"}
// CHECK: serve.prefill "m.prefill"(%prompt) {call = "m", model = "M", pool = "fast"}
// CHECK: serve.kv_transfer "m.kv_transfer"(%kv) {call = "m", model = "M", pool = "slow"}
// CHECK: serve.decode "m.decode"(%kv_1, %prompt) {call = "m", model = "M", pool = "slow"}
// GENERIC: "serve.prefill"(%prompt) <{id = "m.prefill", call = "m", model = "M", pool = "fast"}> : (!serve.prompt) -> !serve.kv<"M"> loc(
