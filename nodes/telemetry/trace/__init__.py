"""Records of the schedulers' plans and passes: stores, encodes, draws and replans them."""
