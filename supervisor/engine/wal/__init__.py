"""The write-ahead log: records, segments, insertion, group commit, reading."""
