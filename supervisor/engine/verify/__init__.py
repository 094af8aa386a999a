"""Whether the files of a cluster are sound: heap and index agree, pages are whole, LSNs right."""
