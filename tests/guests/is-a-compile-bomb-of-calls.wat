;; 600,000 calls in one function.
(func $bomb {{600000:(call $behave)}})
