"""The verb doctor: the facts, problems and fixes of this device."""
