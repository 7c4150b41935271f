// RUN: heterarch opt %s --passes decompose --no-locations | filecheck %s
agent.graph @main(%q: !agent.text) -> !agent.text {
  %c = agent.chat "chat"() {system = "Be brief.", tokens_in = #agent.dist<12.0>} : () -> !agent.chat
  %docs = agent.retrieve "facts"(%q) {index = "wiki", top_k = 20 : i64, keep = 3 : i64, callee = "find", embed_seconds = #agent.dist<0.01>, seconds = #agent.dist<0.02>, rerank_seconds = #agent.dist<0.03>} : (!agent.text) -> !agent.list<!agent.text>
  %c1, %t = agent.model "answer"(%c, %q, %docs) {model = "M", max_tokens = 64 : i64, tokens_in = #agent.dist<100.0>, tokens_out = #agent.dist<p50 = 20.0, p95 = 60.0>} : (!agent.chat, !agent.text, !agent.list<!agent.text>) -> (!agent.chat, !agent.text)
  %a = agent.audio "tts"(%t) {task = "tts", seconds = #agent.dist<0.2>} : (!agent.text) -> !agent.audio
  %x = agent.tool "play"(%a) {effects = true} : (!agent.audio) -> !agent.data
  agent.yield %t : !agent.text
}
// CHECK:      = serve.embed "facts.embed"(%q) {seconds = #agent.dist<0.01>} : (!agent.text) -> !agent.data
// CHECK-NEXT: = serve.search "facts.search"(%{{.*}}, %q) {callee = "find", index = "wiki", seconds = #agent.dist<0.02>, top_k = 20 : i64}
// CHECK-NEXT: %docs = serve.rerank "facts.rerank"(%{{.*}}, %q) {keep = 3 : i64, seconds = #agent.dist<0.03>}
// CHECK-NEXT: %prompt = serve.kv_lookup "answer.kv_lookup"(%c, %q, %docs) {call = "answer", model = "M", tokens_in = #agent.dist<100.0>}
// CHECK-NEXT: %kv = serve.prefill "answer.prefill"(%prompt) {call = "answer", model = "M"} : (!serve.prompt) -> !serve.kv<"M">
// CHECK-NEXT: %kv_1 = serve.kv_transfer "answer.kv_transfer"(%kv) {call = "answer", model = "M"} : (!serve.kv<"M">) -> !serve.kv<"M">
// CHECK-NEXT: %c1, %t = serve.decode "answer.decode"(%kv_1, %prompt) {call = "answer", max_tokens = 64 : i64, model = "M", tokens_out = #agent.dist<p50 = 20.0, p95 = 60.0>}
// CHECK-NEXT: %a = serve.audio "tts"(%t) {seconds = #agent.dist<0.2>, task = "tts"} : (!agent.text) -> !agent.audio
// CHECK-NEXT: %x = serve.tool "play"(%a) {effects = true} : (!agent.audio) -> !agent.data
// CHECK-NEXT: agent.yield %t : !agent.text
