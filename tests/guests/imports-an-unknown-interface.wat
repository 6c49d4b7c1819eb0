;; Wants an interface of our package that does not exist.
(component
  (import "cortexdb:connector/secrets@0.1.0" (instance))
  (instance $source)
  (export "cortexdb:connector/source@0.1.0" (instance $source)))
