;; Computes for ever.
;; run: --limit cpu_between_waits=1s
(func $behave (loop $for_ever (br $for_ever)))
