;; Wants a gibibyte before it begins.
(memory $memory 16384)
