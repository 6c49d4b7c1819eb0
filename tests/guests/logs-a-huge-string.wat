;; Logs one line of 100 MiB.
(memory $memory 1700)
(func $behave (call $log (i32.const 2) (i32.const 0) (i32.const 104857600) (i32.const 0) (i32.const 0)))
