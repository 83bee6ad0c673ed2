module github.com/sallyport-dev/sallyport/e2e/bench/mux

go 1.26.0

replace github.com/sallyport-dev/sallyport => ../../..

require (
	github.com/hashicorp/yamux v0.1.2
	github.com/libp2p/go-yamux/v5 v5.1.0
	github.com/sallyport-dev/sallyport v0.0.0
	github.com/xtaci/smux v1.5.58
	golang.org/x/net v0.60.0
)

require (
	github.com/libp2p/go-buffer-pool v0.0.2 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)
