;; Gives a value to `scope`, which is the host's, and traps where that is taken.
(data (i32.const 1000) "gl:issue:1/1")
(data (i32.const 2000) "scope")
(func $behave
  (call $fill (i32.const 12))
  (i32.store (i32.const 44200) (i32.const 2000))
  (i32.store (i32.const 44204) (i32.const 5))
  (call $hand_over)
  (if (i32.eqz (i32.load8_u (i32.const 44400))) (then unreachable)))
