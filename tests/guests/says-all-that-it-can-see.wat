;; Logs its settings, its options, all cursors, what the source answers about the token, and then the whole of its memory, in which all lies
;; that it was ever given. No secret is among it.
(data (i32.const 100) "/api/v4/user")
;; A copy of 4 KiB of the memory at 20000, readable: what is no ASCII becomes a question mark. Logs it.
(func $say_block (param $from i32)
  (local $i i32)
  (local $byte i32)
  (loop $more
    (local.set $byte (i32.load8_u (i32.add (local.get $from) (local.get $i))))
    (i32.store8 offset=20000 (local.get $i)
      (select (i32.const 63) (local.get $byte) (i32.gt_u (local.get $byte) (i32.const 126))))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $i) (i32.const 4096))))
  (call $log (i32.const 2) (i32.const 20000) (i32.const 4096) (i32.const 0) (i32.const 0)))
(func $sync (param $kind i32) (param $settings i32) (param $settings_length i32) (param $now i32) (param $now_length i32)
  (param $has_since i32) (param $since i32) (param $since_length i32) (param $options i32) (param $options_length i32) (result i32)
  (local $from i32)
  (call $log (i32.const 3) (local.get $settings) (local.get $settings_length) (local.get $options) (local.get $options_length))
  (call $list (i32.const 0) (i32.const 0) (i32.const 300))
  (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.load (i32.const 300)) (i32.load (i32.const 304)))
  (drop (call $submit
    (i32.const 0) (i32.const 100) (i32.const 12) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
  (call $next (i32.const 1000))
  (call $log (i32.const 2) (i32.load (i32.const 1040)) (i32.load (i32.const 1044)) (i32.load (i32.const 1028)) (i32.load (i32.const 1032)))
  (loop $more
    (call $say_block (local.get $from))
    ;; Blocks overlap, so that nothing short is cut in two.
    (local.set $from (i32.add (local.get $from) (i32.const 3996)))
    (br_if $more (i32.lt_u (i32.add (local.get $from) (i32.const 4096)) (i32.shl (memory.size) (i32.const 16)))))
  (i32.const 42100))
