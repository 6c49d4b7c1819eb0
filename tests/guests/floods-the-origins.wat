;; Hands over nothing, from origin after origin.
;; run: --limit origin_bytes=4KiB
(func $behave (local $name i32)
  (call $fill (i32.const 0))
  (loop $more
    (i32.store (i32.const 100) (i32.add (i32.const 0x21212121) (local.get $name)))
    (call $write
      (i32.const 43040) (i32.const 8)
      (i32.const 100) (i32.const 2)
      (i32.const 44200) (i32.const 1)
      (i32.const 44000) (i32.const 0)
      (i32.const 44400))
    (local.set $name (i32.add (local.get $name) (i32.const 1)))
    (if (i32.eq (i32.and (local.get $name) (i32.const 0x3f)) (i32.const 0x3f))
      (then (local.set $name (i32.add (local.get $name) (i32.const 0xc1)))))
    (br_if $more (i32.eqz (i32.load8_u (i32.const 44400))))))
