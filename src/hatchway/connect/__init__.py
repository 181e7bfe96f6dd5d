"""What a person types or clicks to connect, made from wire.admin.ConnectionInfo. Pure: no I/O."""
