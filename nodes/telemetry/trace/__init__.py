"""Records of what schedulers plan and do: kept, sent to who asks, drawn and planned anew."""
