"""The storage engine: pages, write-ahead log, transactions and recovery over a Disk, a Host and a Region."""
