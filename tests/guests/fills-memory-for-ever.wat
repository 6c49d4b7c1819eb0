;; Fills 250 MiB again and again: one instruction that cannot be interrupted while it runs.
;; run: --limit cpu_between_waits=1s
(memory $memory 4000)
(func $behave
  (loop $more
    (memory.fill (i32.const 131072) (i32.const 1) (i32.const 262000000))
    (br $more)))
