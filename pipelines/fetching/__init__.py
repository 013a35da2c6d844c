"""URLs that come from strangers: a polite, bounded downloader, and a site to try it on."""
