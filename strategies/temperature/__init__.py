"""What shapes the KD term itself: temperature, decoupling, standardisation."""
