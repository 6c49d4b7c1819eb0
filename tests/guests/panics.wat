;; Panics as Rust does: its hook logs the message, then it executes `unreachable`. It is at a stream.
(data (i32.const 100) "1/issues")
(data (i32.const 200) "index out of bounds: the len is 3 but the index is 7, src/lib.rs:17:100")
(func $panic_hook
  (call $log (i32.const 4) (i32.const 200) (i32.const 71) (i32.const 0) (i32.const 0))
  unreachable)
(func $behave
  (call $progress (i32.const 100) (i32.const 8) (i64.const 42) (i32.const 0) (i64.const 0))
  (call $panic_hook))
