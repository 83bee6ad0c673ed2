// Package charts tests the Helm charts by what comes out of them: the objects
// that values give (testdata/CHART/NAME.values.yaml and NAME.golden.yaml), the
// messages for values that can't work, and what a real API server says to all
// of it, with the Pod Security level restricted enforced. That they run is for
// the guide on a real cluster to show (e2e/guide).
//
//	go test ./charts -update   # after a change of templates; then read the diff
package charts
