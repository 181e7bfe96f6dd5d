"""May this login enter? One pure decision, and the socket the helpers of sshd ask."""
