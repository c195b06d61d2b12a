"""Tests of the gateway with odd requests and with many clients, and its costs."""
