"""A QEMU-based test harness for Linux kernel patch series that control block I/O bandwidth."""

__version__ = "0.1.0"
