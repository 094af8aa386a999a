"""How a campaign's transactions reach a server: the contract, and its implementations."""
