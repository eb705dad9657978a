"""The verb doctor: what this device can do, what is wrong with it and how to mend that."""
