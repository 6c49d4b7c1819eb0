;; 40,000 tiny functions.
{{40000:(func)}}
