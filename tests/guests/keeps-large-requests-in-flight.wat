;; Submits one large body of its own again and again, each time to be sent in a minute, and takes no answer.
(memory $memory 40)
(data (i32.const 100) "/api/v4/user")
(func $behave
  (loop $more
    (drop (call $submit
    (i32.const 2) (i32.const 100) (i32.const 12) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 1) (i32.const 1) (i32.const 1048576) (i32.const 1048576) (i32.const 1) (i32.const 1) (i32.const 60000) (i32.const 0) (i32.const 0)))
    (br $more)))
