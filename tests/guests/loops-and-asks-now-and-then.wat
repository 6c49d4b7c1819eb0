;; Asks for an answer that it never requested, for ever: each call looks like waiting.
;; run: --limit cpu=1s
(func $behave
  (loop $for_ever
    (call $next (i32.const 200))
    (br $for_ever)))
