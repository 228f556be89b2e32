// Package pubsubtest runs Watermill's own suite, tests.TestPubSub, against adapters/watermill. It is a module of its own, so that nobody
// else needs what the suite needs.
package pubsubtest
