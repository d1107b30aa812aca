"""Files on disk -> modules: headers, quantised weights, what belongs together, encoders, LoRAs."""
