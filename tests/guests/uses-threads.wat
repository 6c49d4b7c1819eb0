;; Shares its memory.
(memory $shared 1 1 shared)
