;; Says that the source lists ids of 4 KiB each, no two alike, for ever: the host keeps them until the list is complete.
(import "cortexdb:connector/writer@0.1.0" "listed" (func $listed (param i32 i32 i32 i32 i32 i32 i32 i32)))
(memory $memory 8)
(data (i32.const 100) "1/issues")
(data (i32.const 110) "issue")
(global $random (mut i32) (i32.const 1))
;; 12 KiB at 300000, a letter and a colon by turns, other letters each time: an id has two colons at least.
(func $scribble
  (local $at i32)
  (loop $more
    (global.set $random (i32.add (i32.mul (global.get $random) (i32.const 1664525)) (i32.const 1013904223)))
    (i32.store8 offset=300001 (local.get $at) (i32.const 58))
    (i32.store8 offset=300000 (local.get $at)
      (i32.add (i32.const 97) (i32.rem_u (i32.shr_u (global.get $random) (i32.const 16)) (i32.const 26))))
    (local.set $at (i32.add (local.get $at) (i32.const 2)))
    (br_if $more (i32.lt_u (local.get $at) (i32.const 12288)))))
(func $behave
  (local $i i32)
  ;; 4000 ids of 4096 bytes, each of which begins one letter further: at 200000.
  (loop $next_id
    (i32.store offset=200000 (i32.shl (local.get $i) (i32.const 3)) (i32.add (i32.const 300000) (i32.shl (local.get $i) (i32.const 1))))
    (i32.store offset=200004 (i32.shl (local.get $i) (i32.const 3)) (i32.const 4096))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $next_id (i32.lt_u (local.get $i) (i32.const 4000))))
  (loop $for_ever
    (call $scribble)
    (call $listed (i32.const 100) (i32.const 8) (i32.const 110) (i32.const 5)
      (i32.const 200000) (i32.const 4000) (i32.const 1) (i32.const 400000))
    ;; They were taken.
    (if (i32.load8_u (i32.const 400000)) (then unreachable))
    (br $for_ever)))
