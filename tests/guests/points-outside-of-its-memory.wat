;; Logs a line that ends behind its memory.
(func $behave (call $log (i32.const 2) (i32.const -16) (i32.const 32) (i32.const 0) (i32.const 0)))
