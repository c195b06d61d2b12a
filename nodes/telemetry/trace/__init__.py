"""Records of the schedulers' plans and passes: stores, encodes and draws them."""
