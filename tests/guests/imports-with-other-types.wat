;; Imports `log` with a function that the host does not have.
(component
  (import "cortexdb:connector/log@0.1.0" (instance (export "read-secrets" (func (result string)))))
  (instance $source)
  (export "cortexdb:connector/source@0.1.0" (instance $source)))
