"""What a run is asked to do: typed models, and how files and flags become one of them."""
