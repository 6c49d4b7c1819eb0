;; Logs its settings, its options, all cursors, and what the source answers about the token. No secret is among it.
(data (i32.const 100) "/api/v4/user")
(func $sync (param $kind i32) (param $settings i32) (param $settings_length i32) (param $now i32) (param $now_length i32)
  (param $has_since i32) (param $since i32) (param $since_length i32) (param $options i32) (param $options_length i32) (result i32)
  (call $log (i32.const 3) (local.get $settings) (local.get $settings_length) (local.get $options) (local.get $options_length))
  (call $list (i32.const 0) (i32.const 0) (i32.const 300))
  (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.load (i32.const 300)) (i32.load (i32.const 304)))
  (drop (call $submit
    (i32.const 0) (i32.const 100) (i32.const 12) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
  (call $next (i32.const 1000))
  (call $log (i32.const 2) (i32.load (i32.const 1040)) (i32.load (i32.const 1044)) (i32.load (i32.const 1028)) (i32.load (i32.const 1032)))
  ;; All of its memory that is text by any means, a line at a time.
  (call $log (i32.const 2) (i32.const 40000) (i32.const 300) (i32.const 0) (i32.const 0))
  (i32.const 42100))
