// Package kfaketest tests broker/kafka on a Kafka that runs in the test's own process and takes faults on command (franz-go's kfake). It
// is a module of its own, so that nobody else links it.
package kfaketest
