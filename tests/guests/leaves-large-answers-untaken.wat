;; Asks for 30 answers of 30 MiB, which are 900 MiB, computes while they arrive, and takes them then. 16 wait for it in the host; the others
;; come after those. Traps unless all are there.
;; run: --limit cpu_between_waits=5m
(data (i32.const 100) "/api/v4/large")
(func $behave
  (local $i i32)
  (local $time i64)
  (loop $ask
    (drop (call $submit
      (i32.const 0) (i32.const 100) (i32.const 13) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $ask (i32.lt_u (local.get $i) (i32.const 30))))
  (loop $compute
    (local.set $time (i64.add (local.get $time) (i64.const 1)))
    (br_if $compute (i64.lt_u (local.get $time) (i64.const 1500000000))))
  (loop $take
    ;; The memory of the last one serves for the next.
    (global.set $heap (i32.const 131072))
    (call $next (i32.const 200))
    ;; There is one, and it is an answer.
    (if (i32.eqz (i32.load8_u (i32.const 200))) (then unreachable))
    (if (i32.load8_u (i32.const 216)) (then unreachable))
    (local.set $i (i32.sub (local.get $i) (i32.const 1)))
    (br_if $take (local.get $i))))
