;; Is 200 core instances of an empty module, beside its own.
;; core instances: 200
(func $unused)
