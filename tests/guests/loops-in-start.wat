;; Computes for ever before it is even called.
;; run: --limit cpu_between_waits=1s
(func $start (loop $for_ever (br $for_ever)))
(start $start)
