"""stub"""
class Landmarks: pass
