"""Base, SFT and DPO compared on the same items."""
