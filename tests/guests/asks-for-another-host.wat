;; Asks for paths that would leave the source, and goes on with its refusals. The log shows each answer's first byte: 0 is denied.
(data (i32.const 100) "//169.254.169.254/latest/meta-data")
(data (i32.const 200) "/../../etc/passwd")
(data (i32.const 300) "http://169.254.169.254/")
(func $ask (param $at i32) (param $length i32)
  (drop (call $submit
    (i32.const 0) (local.get $at) (local.get $length) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
  (call $next (i32.const 1000))
  ;; some, error, denied
  (if (i32.or (i32.ne (i32.load8_u (i32.const 1016)) (i32.const 1)) (i32.ne (i32.load8_u (i32.const 1024)) (i32.const 0)))
    (then unreachable)))
(func $behave
  (call $ask (i32.const 100) (i32.const 34))
  (call $ask (i32.const 200) (i32.const 17))
  (call $ask (i32.const 300) (i32.const 23)))
