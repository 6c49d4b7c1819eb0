;; A guest's own data lies below 32768, that of these parts above, the heap from 131072.
(memory $memory 4)
