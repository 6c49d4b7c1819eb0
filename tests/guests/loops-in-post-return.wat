;; Gives its answer and then computes for ever.
;; run: --limit cpu_between_waits=1s
(func $after_sync (param i32) (loop $for_ever (br $for_ever)))
