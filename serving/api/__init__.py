"""The endpoints, a router a file; `serving.app` puts them together."""
