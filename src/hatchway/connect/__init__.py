"""What people type, click or import to connect, made from wire.admin.ConnectionInfo. No I/O, no state.

A password appears where ConnectionInfo holds one, nowhere else.
"""
