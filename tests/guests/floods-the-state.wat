;; Sets cursor after cursor.
;; run: --limit state_keys=1000
(func $behave (local $key i32)
  (loop $more
    (i32.store (i32.const 100) (i32.add (i32.const 0x21212121) (local.get $key)))
    (call $set (i32.const 100) (i32.const 3) (i32.const 1) (i32.const 100) (i32.const 3))
    (local.set $key (i32.add (local.get $key) (i32.const 1)))
    (if (i32.eq (i32.and (local.get $key) (i32.const 0x3f)) (i32.const 0x3f))
      (then (local.set $key (i32.add (local.get $key) (i32.const 0xc1)))))
    (if (i32.eq (i32.and (local.get $key) (i32.const 0x3f00)) (i32.const 0x3f00))
      (then (local.set $key (i32.add (local.get $key) (i32.const 0xc100)))))
    (br $more)))
