;; Logs bytes that are no text.
(data (i32.const 100) "\ff\fe\fd")
(func $behave (call $log (i32.const 2) (i32.const 100) (i32.const 3) (i32.const 0) (i32.const 0)))
