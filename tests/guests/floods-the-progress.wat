;; Reports progress five thousand times where a thousand are taken. That ends nothing.
;; run: --limit reports=1000
(data (i32.const 100) "1/issues")
(func $behave (local $left i32)
  (local.set $left (i32.const 5000))
  (loop $more
    (call $progress (i32.const 100) (i32.const 8) (i64.const 1) (i32.const 0) (i64.const 0))
    (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))
