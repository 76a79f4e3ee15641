"""From a bundle to the champion: registration, what the gate judges, what a reviewer reads and says, and the moves of aliases."""
